"""Where q, k and v come from: shapes, what may stand after ``--inputs``, and the tensors themselves (``make``)."""
