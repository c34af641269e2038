* Stata's documented example (manual entry of roctab; ratings of 109 CT images, Hanley & McNeil 1982).
* The printed results are kept in stats.json; Stata is not needed to run the tests.
* roctab's default standard error is DeLong's: area 0.8932, std. err. 0.0307, 95 % interval 0.83295 to 0.95339
use https://www.stata-press.com/data/r18/hanley
roctab disease rating
