"""What decides about a turn: attempts, routes, deadlines, hedging, prices."""
