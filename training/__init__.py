"""What a long run needs, whatever it trains: the loop, checkpoints, metrics, replicas, the command line."""
