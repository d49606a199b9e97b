"""The grouped products as compiled for Hopper, instruction by instruction; needs nvdisasm.

This checks the claims of headers and README about registers, loops and instructions.
"""

import re
import shutil
import subprocess

import pytest

from mini_moe.checker import KERNELS

needs_tools = pytest.mark.skipif(
    not (shutil.which("nvcc") and shutil.which("nvdisasm")), reason="needs nvcc and nvdisasm"
)
GROUPED = ("grouped_gemm", "grouped_swiglu", "grouped_wgrad")
COMMAND = ["nvcc", "-std=c++17", "-O3", "-w", f"-I{KERNELS}", "-cubin"]
COMMAND += ["-gencode=arch=compute_90a,code=sm_90a"]


def kernels_in(text: str) -> dict[str, list[str]]:
    """Return each kernel's instructions; a label is a separate line, ending with a colon."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if start := re.match(r"\.text\.(\S+):", line.strip()):
            lines = found.setdefault(start[1], [])
        elif label := re.match(r"\s*(\.L_x_\d+:)", line):
            lines.append(label[1])
        elif instruction := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            lines.append(instruction[1])
    return found


def loops_with(word: str, lines: list[str]) -> list[list[str]]:
    """Return the loops, from a label to the branch back to it, that contain an instruction."""
    places = {line[:-1]: at for at, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for at, line in enumerate(lines):
        to = re.search(r"\bBRA\b.*`\((\.L_x_\d+)\)", line)
        if to and places.get(to[1], at) < at:
            loops.append(lines[places[to[1]] : at])
    return [loop for loop in loops if any(word in line for line in loop)]


def test_loops_are_found_between_a_label_and_the_branch_back():
    text = """
    .text.one:
    .L_x_0:
        /*0000*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
        /*0010*/              @!P0 BRA `(.L_x_0) ;
        /*0020*/                   BRA `(.L_x_1) ;
        /*0030*/                   HMMA.16816.F32.BF16 R4, R8, R2, R4 ;
    .L_x_1:
        /*0040*/                   EXIT ;
    """
    lines = kernels_in(text)["one"]
    assert len(lines) == 7
    assert loops_with("HMMA", lines) == [[".L_x_0:", "HMMA.16816.F32.BF16 R4, R8, R2, R4 "]]
    assert loops_with("EXIT", lines) == []


@pytest.fixture(scope="module", params=GROUPED)
def tensor_core_kernels(request, tmp_path_factory):
    """Compile a file and return its kernels that use tensor cores."""
    cubin = tmp_path_factory.mktemp("sass") / "out.cubin"
    subprocess.run([*COMMAND, str(KERNELS / f"{request.param}.cu"), "-o", str(cubin)], check=True)
    said = subprocess.run(["nvdisasm", "-c", str(cubin)], capture_output=True, text=True)
    if said.returncode:
        pytest.skip(f"nvdisasm cannot read nvcc's output: {said.stderr.strip()}")
    kernels = kernels_in(said.stdout)
    return {name: lines for name, lines in kernels.items() if "tensor_core" in name}


@needs_tools
def test_registers_are_enough_for_everything(tensor_core_kernels):
    """Nothing is spilled to local memory."""
    for name, lines in tensor_core_kernels.items():
        assert not [line for line in lines if re.search(r"\b(LDL|STL)\b", line)], name


@needs_tools
def test_products_are_made_by_the_instructions_that_the_readme_names(tensor_core_kernels):
    """They are Ampere's; adding a kernel with wgmma means changing the README and this test."""
    assert "Ampere's instructions" in (KERNELS / "README.md").read_text()
    for name, lines in tensor_core_kernels.items():
        words = " ".join(lines)
        assert all(word in words for word in ("HMMA", "LDSM", "LDGSTS")), name
        assert not any(word in words for word in ("HGMMA", "UTMALDG")), name


@needs_tools
def test_the_main_loop_loads_while_it_multiplies(tensor_core_kernels):
    """Each kernel has a main loop without inner branches that interleaves loads and products."""
    for name, lines in tensor_core_kernels.items():
        clean = [
            loop for loop in loops_with("HMMA", lines) if not any("WARPSYNC" in x for x in loop)
        ]
        assert len(clean) == 1, name
        order = "".join("H" if "HMMA" in x else "L" if "LDSM" in x else "" for x in clean[0])
        assert len(re.findall("HL", order)) >= 4, f"{name}: {order}"
