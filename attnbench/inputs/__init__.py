"""Sources of q, k and v: shapes, the values of ``--inputs``, and the tensors themselves (``make``)."""
