"""Tokenizers: learned or taken over, with the special tokens that an objective needs.

Below: the `tokenizers` library. Above: `prepare`, `objective`.
"""
