module hostbadge.example/hostbadge

go 1.21
