"""Real faults on the real stack: a nemesis, clients that write down what they are told, and a
checker that holds it against the database and the object store."""
