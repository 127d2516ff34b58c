"""Triton kernels, imported only where `ops.backend.use_triton` says so.

Kernel parameters carry no types: Triton gives them its own.
"""
