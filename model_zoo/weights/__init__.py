"""Files of weights: found, downloaded, kept within a bound, read without executing anything.

This room knows files and tensors. Which model they are for is said by those who ask: names of
models, architectures and their construction stay outside.
"""
