"""PASS for Gadgetron: four stages that a server runs one after the other, and all that speaks to a server.

A line enters in `acs_buffer`, lines are chosen in `mask_feedback`, the image is made in `pass_reconstruction` and
leaves through `anomaly_overlay`. `chain` runs all four without a server, `resident` in one warm process.
"""
