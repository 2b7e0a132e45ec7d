"""A whole input looked at before anything is asked: `check`; of a long one by several processes."""
