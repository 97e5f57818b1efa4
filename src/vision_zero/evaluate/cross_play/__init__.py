"""Cross-play of trained models: civilians of one, voters of another."""
