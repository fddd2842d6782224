"""The package behind *Optimization, Executed*: small enough to be read in an evening."""
