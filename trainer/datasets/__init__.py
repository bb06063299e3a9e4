"""Where the data comes from: the canonical dataset, its check, one adapter a public source, and two worlds made up here."""
