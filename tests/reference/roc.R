# pROC's answers on random scores, with and without ties: Rscript roc.R, in this folder.
# Writes roc_cases.csv (the data) and roc.csv (sample, quantity, value), made with R 4.2.2 and pROC 1.18.0.
# R is not needed to run the tests.
suppressMessages(library(pROC))
set.seed(20211)

sample_of <- function(name, positives, negatives, shift, digits) {
  label <- sample(rep(c(1, 0), c(positives, negatives)))
  common <- rnorm(length(label)) + shift * label
  data.frame(
    sample = name, label = label,
    a = round(common + 0.5 * rnorm(length(label)), digits),
    b = round(common + 0.8 * rnorm(length(label)), digits)
  )
}
cases <- rbind(
  sample_of("distinct", 40, 80, 1, 12),
  sample_of("tied", 70, 60, 0.8, 1),
  sample_of("ratings", 30, 50, 1.5, 0),
  sample_of("small", 9, 14, 1, 12),
  sample_of("chance", 55, 55, 0, 2)
)
# Three classes, for Hand and Till: probabilities of two decimals, the third what is left to 1.
classes <- sample(rep(0:2, c(50, 40, 30)))
raw <- matrix(runif(360), ncol = 3) + 0.5 * (outer(classes, 0:2, "=="))
three <- round(raw / rowSums(raw), 2)
three[, 3] <- round(1 - three[, 1] - three[, 2], 2)

curve_of <- function(label, score) roc(label, score, quiet = TRUE, direction = "<", levels = c(0, 1))
rows <- list()
note <- function(sample, quantity, value) {
  rows[[length(rows) + 1]] <<- data.frame(sample = sample, quantity = quantity, value = sprintf("%.15g", as.numeric(value)))
}
for (name in unique(cases$sample)) {
  own <- cases[cases$sample == name, ]
  a <- curve_of(own$label, own$a)
  b <- curve_of(own$label, own$b)
  note(name, "auc_a", auc(a))
  note(name, "auc_b", auc(b))
  note(name, "variance_a", var(a, method = "delong"))
  note(name, "covariance", cov(a, b, method = "delong"))
  interval <- ci.auc(a, method = "delong")
  note(name, "low_a", interval[1])
  note(name, "high_a", interval[3])
  paired <- roc.test(a, b, method = "delong", paired = TRUE)
  note(name, "paired_z", paired$statistic)
  note(name, "paired_p", paired$p.value)
  note(name, "paired_low", paired$conf.int[1])
  note(name, "paired_high", paired$conf.int[2])
  odd <- seq_along(own$label) %% 2 == 1
  first <- curve_of(own$label[odd], own$a[odd])
  second <- curve_of(own$label[!odd], own$b[!odd])
  unpaired <- roc.test(first, second, method = "delong", paired = FALSE)
  note(name, "unpaired_d", unpaired$statistic)
  note(name, "unpaired_df", unpaired$parameter)
  note(name, "unpaired_p", unpaired$p.value)
}
colnames(three) <- c("0", "1", "2")
note("three", "hand_till", multiclass.roc(classes, three, quiet = TRUE)$auc)

cases$c <- NA
three <- data.frame(sample = "three", label = classes, a = three[, 1], b = three[, 2], c = three[, 3])
write.csv(rbind(cases, three), "roc_cases.csv", row.names = FALSE, quote = FALSE, na = "")
write.csv(do.call(rbind, rows), "roc.csv", row.names = FALSE, quote = FALSE)
