"""Which phase-encoding lines to acquire: budgets and baselines, the population's plan, the patient's plan."""
