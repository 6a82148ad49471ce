"""What holds for every request: the gate, bodies, connections and responses."""
