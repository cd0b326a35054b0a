module headswap.dev

go 1.23
