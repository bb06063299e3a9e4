"""Who sees what, and was it better: definitions, assignment, the event ledger, statistics, reports, promotion."""
