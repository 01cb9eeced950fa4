# Draws what a lone caller waits for, out of plot.dat.
set terminal svg size 1100,420 background "white" font "sans-serif,12"
set output "plot.svg"
set datafile separator "\t"
set datafile missing "–"
set style data histogram
set style histogram clustered gap 1
set style fill solid noborder
set boxwidth 0.9
set key top left horizontal
set ylabel "ms, p50"
set yrange [0:*]
set bmargin 5
set ytics 30
set grid ytics linecolor rgb "#cccccc"
set xtics scale 0 font ",10"
set title "One caller, WeChat 30 ms away"
plot for [i=2:6] "plot.dat" using i:xtic(1) title columnheader(i) \
	linecolor rgb word("#999999 #2a78d6 #eb6834 #e0b000 #1baf7a", i-1)
