"""A submodule that a failed import of the package leaves behind."""
