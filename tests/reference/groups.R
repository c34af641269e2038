# Base R's answers for tests between groups and for models; nlme's for clustered rows, circular's for axes.
# Rscript groups.R, in this folder. Writes groups_cases.csv (the data) and groups.csv (quantity, value), made with
# R 4.2.2, nlme 3.1.162, circular 0.4.95. R is not needed to run the tests.
suppressMessages({library(nlme); library(circular)})
set.seed(403)

n <- 90
cases <- data.frame(patient = 1:n, group = rep(c(0, 1), c(55, 35)))
cases$smooth <- rnorm(n) + 0.6 * cases$group
cases$spread <- rnorm(n, sd = 1 + 1.5 * cases$group) + 0.5 * cases$group
cases$tied <- round(2 * cases$smooth)
cases$grade <- sample(1:3, n, replace = TRUE, prob = c(2, 2, 1))
cases$rare <- rbinom(n, 1, 0.05 + 0.08 * cases$group)
cases$axis <- round((60 + 25 * cases$group + 18 * rnorm(n)) %% 180, 3)
few <- c(1:7, 56:66)  # for exact tests

rows <- list()
note <- function(quantity, value) {
  rows[[length(rows) + 1]] <<- data.frame(quantity = quantity, value = sprintf("%.15g", as.numeric(value)))
}
one <- cases$group == 1
shift <- wilcox.test(cases$smooth[intersect(few, which(one))], cases$smooth[intersect(few, which(!one))],
                     conf.int = TRUE, exact = TRUE)
note("exact_u", shift$statistic); note("exact_p", shift$p.value)
note("shift", shift$estimate); note("shift_low", shift$conf.int[1]); note("shift_high", shift$conf.int[2])
tied <- wilcox.test(tied ~ factor(group, c(1, 0)), cases, exact = FALSE)
note("tied_u", tied$statistic); note("tied_p", tied$p.value)
for (equal in c(TRUE, FALSE)) {
  t <- t.test(cases$spread[one], cases$spread[!one], var.equal = equal)
  name <- if (equal) "t" else "welch"
  note(paste0(name, "_t"), t$statistic); note(paste0(name, "_df"), t$parameter); note(paste0(name, "_p"), t$p.value)
  note(paste0(name, "_low"), t$conf.int[1]); note(paste0(name, "_high"), t$conf.int[2])
}
chi <- chisq.test(table(cases$grade, cases$group), correct = FALSE)
note("chi_statistic", chi$statistic); note("chi_p", chi$p.value)
note("fisher_p", fisher.test(table(cases$rare, cases$group))$p.value)
kruskal <- kruskal.test(smooth ~ grade, cases)
note("kruskal_h", kruskal$statistic); note("kruskal_p", kruskal$p.value)

p <- c(0.015, 0.012, 0.009, 0.010, 0.024, 0.083, 0.065, 0.149)  # the paper's eight features
for (i in seq_along(p)) note(paste0("holm_", i), p.adjust(p, "holm")[i])
for (i in seq_along(p)) note(paste0("bh_", i), p.adjust(p, "BH")[i])

model <- glm(group ~ smooth + spread + rare, binomial, cases, control = glm.control(epsilon = 1e-14))
table <- summary(model)$coefficients
for (term in rownames(table)) {
  note(paste0("glm_", term), table[term, 1]); note(paste0("glm_error_", term), table[term, 2])
  note(paste0("glm_p_", term), table[term, 4])
}
smaller <- update(model, . ~ . - smooth - rare)
lrt <- anova(smaller, model, test = "LRT")
note("lrt", lrt$Deviance[2]); note("lrt_p", lrt$`Pr(>Chi)`[2])
parallel <- glm(group ~ spread + factor(grade), binomial, cases, control = glm.control(epsilon = 1e-14))
interaction <- anova(parallel, update(parallel, . ~ . + spread:factor(grade)), test = "LRT")
note("interaction", interaction$Deviance[2]); note("interaction_p", interaction$`Pr(>Chi)`[2])

counts <- c(68, 39, 16, 95)  # tp, fp, fn, tn
note("exact_low", binom.test(68 + 95, sum(counts))$conf.int[1]); note("exact_high", binom.test(68 + 95, sum(counts))$conf.int[2])
note("mcnemar_exact_p", binom.test(19, 19 + 7)$p.value)

# Axes: doubled angles as directions.
doubled <- circular(2 * cases$axis, units = "degrees")
note("rayleigh_r", rho.circular(doubled)); note("rayleigh_p", rayleigh.test(doubled[1:20] )$p.value)
uniform <- circular(2 * (cases$smooth * 1000) %% 360, units = "degrees")[1:25]
note("rayleigh_flat_r", rho.circular(uniform)); note("rayleigh_flat_p", rayleigh.test(uniform)$p.value)
ww <- watson.williams.test(doubled, cases$group)
# circular's correction takes the concentration of all angles, Zar's that within groups: compare without it.
note("watson_williams_ratio", ww$statistic / (1 + 3 / (8 * mle.vonmises(doubled, bias = FALSE)$kappa)))

# Nuclei in patients: a random intercept per patient, REML.
patients <- 16
nuclei <- data.frame(patient = rep(1:patients, times = 5 + (1:patients) %% 4))
nuclei$group <- as.numeric(nuclei$patient > 7)
nuclei$value <- round(rnorm(patients)[nuclei$patient] + 0.9 * nuclei$group + rnorm(nrow(nuclei)), 6)
mixed <- lme(value ~ group, random = ~ 1 | patient, data = nuclei, control = lmeControl(tolerance = 1e-10, msTol = 1e-12))
fixed <- summary(mixed)$tTable
note("mixed_difference", fixed["group", "Value"]); note("mixed_error", fixed["group", "Std.Error"])
note("mixed_df", fixed["group", "DF"]); note("mixed_p", fixed["group", "p-value"])
parts <- as.numeric(VarCorr(mixed)[, "Variance"])
note("mixed_icc", parts[1] / sum(parts))

write.csv(cases, "groups_cases.csv", row.names = FALSE, quote = FALSE)
write.csv(nuclei, "groups_nuclei.csv", row.names = FALSE, quote = FALSE)
write.csv(do.call(rbind, rows), "groups.csv", row.names = FALSE, quote = FALSE)
