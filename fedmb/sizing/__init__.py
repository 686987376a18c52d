"""How large a step's batch is, and which rate and clocks go with it."""
