"""Where q, k and v come from: shapes, the values of ``--inputs``, and the tensors themselves (``make``)."""
