"""moto in this process: its services behind our port, and what it does otherwise than AWS.

`aws` answers requests: `services` says which of moto's they are for, `wsgi` calls it.
`corrections` is the table of what moto does otherwise, `sagemaker_corrections` and `cloudwatch` are
what is more than a few lines of it, `identities` says who calls.
"""
