"""What subscribers use beyond their allowances: agreed to, lent within a limit, billed after the period."""
