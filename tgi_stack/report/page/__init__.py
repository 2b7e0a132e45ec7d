"""The page of a report: its charts, its tables, its data packed, and the files that it is written from."""
