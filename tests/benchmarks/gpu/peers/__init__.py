"""Other ways to compute the layer of experts, all with the same weights, ids and gates."""
