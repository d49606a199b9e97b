"""`python -m mini_moe.ops`: every operation, its forms, and what runs on this machine."""

from mini_moe.ops import TABLE, describe
from mini_moe.ops.table import as_text

if __name__ == "__main__":
    print(f"{as_text()}\n\nHere:")
    print("\n".join(f"  {describe(operation.name)}" for operation in TABLE))
