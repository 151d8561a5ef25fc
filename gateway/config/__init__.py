"""The configuration file: reading it (`file`) and what it says of models (`models`). Settings come of it in `settings`."""
