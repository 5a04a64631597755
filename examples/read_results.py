"""What a scan's output file holds: images, scores, findings, times, warnings.

pass-recon recon -f patient.h5 -o out.h5
python examples/read_results.py out.h5
"""

from __future__ import annotations

import argparse

from gadgets.converters.scan_record import read_scan


def main() -> None:
    """Print a line for each slice, and save its magnitude and map for whatever comes next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images")
    scan = read_scan(parser.parse_args().images)
    print(f"{scan.title}, {len(scan.slices)} slices, from {scan.source['file']}")
    for one in scan.slices:
        # levels: whole numbers (ro, pe); divided by the scale they have the unit of the reconstruction
        magnitude = one.levels / one.scale
        score = "no detector" if one.score is None else f"score {one.score:.2f}"
        lines = ", ".join(f"round {plan.round}: {len(plan.lines)} of {plan.pe} lines" for plan in one.plans)
        print(
            f"{one.name}: {one.method}, peak {magnitude.max():.3g}, {score}, {lines}, {sum(one.seconds.values()):.2f} s"
        )
        for box in one.findings:
            middle = box.readout + (box.readout_size - 1) / 2, box.phase + (box.phase_size - 1) / 2
            place = one.geometry.place(*middle, one.levels.shape)  # mm to the left, back and head
            print(
                f"  {box.label or 'finding'} {box.score:.2f} at " + ", ".join(f"{value:.0f}" for value in place) + " mm"
            )
        for warning in one.warnings:
            print("  warning:", warning)


if __name__ == "__main__":
    main()
