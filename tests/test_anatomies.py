"""What a header's words are taken for: by meaning, with whole words, the body part first."""

from __future__ import annotations

import pytest

from pass_recon.anatomies import recognise


@pytest.mark.parametrize(
    ("body_part", "names", "expected"),
    [
        ("", ["brain_t1"], "brain-t1"),
        ("", ["AXT1POST"], "brain-t1"),
        ("", ["AX T2 FLAIR"], "brain-flair"),
        ("", ["CORPD_FBK"], "knee-pd"),
        ("HEAD", ["t1_se_tra"], "brain-t1"),
        ("BRAIN", ["t2_tirm_tra_dark-fluid"], "brain-flair"),
        ("KNEE", ["pd_tse_cor"], "knee-pd"),
        ("", ["pd_tse_cor", "", "", "MRI left knee"], "knee-pd"),
        ("BRAIN", ["ax flair", "", "", "MRI brain and cervical spine"], "brain-flair"),
        # The body part vetoes.
        ("LIVER", ["head_t1"], ""),
        ("SHOULDER", ["pd_tse knee protocol"], ""),
        ("CSPINE", ["t1_tse_sag"], ""),
        # Words that only look like those of a head.
        ("", ["femoral head t1"], ""),
        ("", ["t1 cervical spine, head first"], ""),
        ("", ["T1 head coil QA phantom"], ""),
        ("HEAD", ["t1 QA phantom"], ""),
        ("", ["t1_tse shoulder, head coil"], ""),
        ("", ["overhead t1"], ""),
        # Other contrasts.
        ("HEAD", ["T1rho_map"], ""),
        ("HEAD", ["t1 mapping molli"], ""),
        ("HEAD", ["ax t1 flair"], ""),
        ("HEAD", ["t2_tse_tra"], ""),
        ("HEAD", ["pd_tse_tra"], ""),
        ("KNEE", ["t1_tse_cor"], ""),
        # Knees with suppressed fat, however it is told.
        *(
            ("KNEE", [f"pd_tse {word} cor"], "")
            for word in ("fs", "FatSat", "fat sat", "SPAIR", "STIR", "spir", "Dixon", "fat suppressed", "fat-saturated")
        ),
        *(("KNEE", [f"pd_tse {word} cor"], "") for word in ("CHESS", "fatsupp", "f/s", "q-fat", "ProSet", "SPECIAL")),
        ("KNEE", ["pd_tse_cor", "PD cor fs"], ""),
        ("", ["T1ρ brain"], ""),
        ("", ["fetal brain t1"], ""),
        ("", ["head t1 parotid"], ""),
        ("", ["t1_tse metatarsal head"], ""),
        ("", ["CORPDFS_FBK"], ""),
        ("KNEE", ["PDFS_cor"], ""),
        ("", ["t1_se_tra"], ""),
        ("", [""], ""),
    ],
)
def test_headers_are_read_by_meaning(body_part, names, expected):
    found = recognise(body_part, names)
    assert found.examination == expected
    assert found.reason


def test_the_reason_names_what_decided():
    assert "'LIVER'" in recognise("LIVER", ["t1"]).reason
    assert "'phantom'" in recognise("", ["head phantom t1"]).reason
    assert "'fat sat'" in recognise("KNEE", ["pd fat sat"]).reason
