"""How servers are asked for labels: by the best route that each is able to go, learnt once."""
