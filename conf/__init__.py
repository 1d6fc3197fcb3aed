"""Every knob, as Hydra groups; the schema behind them is trainer/config/."""
