"""Charts of real tables, with one recorded change."""
