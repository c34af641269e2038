# R's own documented examples (help pages of wilcox.test and kruskal.test; data of Hollander & Wolfe 1973).
# The printed results are kept in stats.json; R is not needed to run the tests.

# ?wilcox.test, "Hollander & Wolfe (1973), 69f.": W = 35, exact p (greater) = 0.1272
x <- c(0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46)
y <- c(1.15, 0.88, 0.90, 0.74, 1.21)
wilcox.test(x, y, alternative = "g")

# ?kruskal.test, "Hollander & Wolfe (1973), 116": chi-squared = 0.77143, df = 2, p = 0.68
x <- c(2.9, 3.0, 2.5, 2.6, 3.2)
y <- c(3.8, 2.7, 4.0, 2.4)
z <- c(2.8, 3.4, 3.7, 2.2, 2.0)
kruskal.test(list(x, y, z))
