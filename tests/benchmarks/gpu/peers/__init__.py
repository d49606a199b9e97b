"""Other ways to compute the layer of experts, all from the same weights, ids and gates."""
