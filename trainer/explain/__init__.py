"""Looking inside a model: what each layer would predict, where heads look, what a loss hangs on, what is alike."""
