module podwright.local/critest

go 1.26
