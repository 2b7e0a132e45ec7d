"""The GPU servers of this host: what runs where, brought up and proven to answer."""
