"""The least that a scanner must do to obey the plan, with nothing but a socket and the ismrmrd library.

    pass-recon simulate -o patient.h5
    pass-recon serve &
    python examples/plan_at_my_scanner.py patient.h5

It plays a scan that lies in a file, slice by slice, and says which lines were asked for. docs/closed_loop.md has the
protocol.
"""

from __future__ import annotations

import argparse
import socket
import struct
from collections import defaultdict

import ismrmrd

CONFIG_FILE, HEADER, CLOSE, TEXT, ERROR, ACQUISITION, IMAGE = 1, 3, 4, 5, 8, 1008, 1022
PLAN_SERIES = 1000


class Server:
    """One scan's connection: each message is a number of two bytes and what belongs to it."""

    def __init__(self, host: str, port: int) -> None:
        with socket.create_connection((host, port)) as connected:
            self.stream = connected.makefile("rwb")  # keeps the connection

    def send(self, identifier: int, body: bytes = b"") -> None:
        self.stream.write(struct.pack("<H", identifier) + body)
        self.stream.flush()

    def send_line(self, line: ismrmrd.Acquisition) -> None:
        parts: list[bytes] = []
        line.serialize_into(parts.append)
        self.send(ACQUISITION, b"".join(parts))

    def read(self) -> ismrmrd.Image | None:
        """The next image; what is said on the way is printed. None once the server has nothing more."""
        while (identifier := struct.unpack("<H", self.stream.read(2))[0]) != CLOSE:
            if identifier == IMAGE:
                return ismrmrd.Image.deserialize_from(self.stream.read)
            assert identifier in (TEXT, ERROR), f"message {identifier} is none that a client gets"
            size = struct.unpack(*(("<I", self.stream.read(4)) if identifier == TEXT else ("<Q", self.stream.read(8))))
            print("  server:", self.stream.read(size[0]).decode())
        return None


def scan(server: Server, header: bytes, lines: list[ismrmrd.Acquisition], acceleration: float) -> None:
    """Send noise scans, then of each slice the ACS and the planned lines."""
    pe = ismrmrd.xsd.CreateFromDocument(header).encoding[0].encodedSpace.matrixSize.y
    centred = round(0.32 / acceleration * pe)
    first = pe // 2 - centred // 2
    acs = range(first, first + centred)
    server.send(CONFIG_FILE, b"pass_recon_plain.xml".ljust(1024, b"\0"))
    server.send(HEADER, struct.pack("<I", len(header)) + header)
    slices: dict[int, dict[int, ismrmrd.Acquisition]] = defaultdict(dict)
    for line in lines:
        line.clearFlag(ismrmrd.ACQ_LAST_IN_SLICE)
        line.clearFlag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        if line.isFlagSet(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            server.send_line(line)
        else:
            slices[line.idx.slice][line.idx.kspace_encode_step_1] = line
    for number, of_slice in slices.items():
        for index in acs:
            server.send_line(of_slice[index])
        plan = server.read()
        while plan is not None and plan.image_series_index != PLAN_SERIES:
            plan = server.read()  # images of the slices before
        assert plan is not None, "the server has ended before the plan"
        wanted = [index for index in map(int, plan.meta["PASS_lines"]) if index not in acs]
        told = f"{wanted[:6]} … ({len(wanted)} lines, {plan.meta['PASS_source']})"
        print(f"slice {number}: {len(acs)} ACS lines, then {told}")
        for index in wanted:
            if index == wanted[-1]:
                of_slice[index].setFlag(ismrmrd.ACQ_LAST_IN_SLICE)
            server.send_line(of_slice[index])
    server.send(CLOSE)


def main() -> None:
    """Play a file, and say what came back."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--port", type=int, default=9002)
    args = parser.parse_args()
    dataset = ismrmrd.Dataset(args.file, "dataset", create_if_needed=False)
    lines = [dataset.read_acquisition(number) for number in range(dataset.number_of_acquisitions())]
    server = Server("127.0.0.1", args.port)
    scan(server, dataset.read_xml_header(), lines, acceleration=4)
    while (image := server.read()) is not None:
        print(f"image: series {image.image_series_index}, slice {image.slice}, {image.data.shape} {image.data.dtype}")
    server.stream.close()
    dataset.close()


if __name__ == "__main__":
    main()
