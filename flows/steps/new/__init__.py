"""Making a model of a table: look at it, find what will hurt, choose, and write the files."""
