"""Which layer breaks a symmetry: attribution to modules, exact or at a finite step."""
