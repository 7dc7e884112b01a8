"""How the Rapidash variants that ship were trained, and the table of their symmetry."""
