"""The measurement: Fourier transform, coils, the encoding operator and the solvers that invert it."""
