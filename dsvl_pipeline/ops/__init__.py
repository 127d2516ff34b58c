"""Tensor operations: a public function, a torch reference, later a Triton kernel."""
