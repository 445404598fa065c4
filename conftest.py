"""What every test folder may use: `pytester`, which runs pytest inside a test."""

pytest_plugins = ["pytester"]
