"""Mini-MoE: a DeepSeek-V3-style mixture-of-experts transformer to build, train and look into."""
