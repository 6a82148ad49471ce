"""What `benchmarks/serving.py` is made of: the peers, their requests, the clients, and what is measured of a server."""
