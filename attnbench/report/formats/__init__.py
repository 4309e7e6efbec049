"""A report in other forms than a page: tables in files, documents, and figures for papers."""
