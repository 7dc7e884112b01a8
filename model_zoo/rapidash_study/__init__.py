"""How the shipped Rapidash variants were trained, and what they measure beside what is derived."""
