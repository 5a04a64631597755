"""The evaluation protocol: every method on the same k-space, compared slice by slice, with intervals over patients."""
