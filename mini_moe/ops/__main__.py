"""`python -m mini_moe.ops`: list every operation, its forms, and which one runs here."""

from mini_moe.ops import TABLE, describe
from mini_moe.ops.table import as_text

if __name__ == "__main__":
    print(f"{as_text()}\n\nOn this machine:")
    print("\n".join(f"  {describe(operation.name)}" for operation in TABLE))
