# The whole system of an HVM guest, 512 bytes that its firmware loads from a disk and starts:
# it keeps changing its memory, and checks what must not change. 64 KB at 0x10000 are filled
# once; each tick sums them up again, fills another page at 0x20000 with the number of the tick,
# checks the page filled the tick before, and says so on the serial line:
#   tick 0x0000002a part 0 sum 8f3c0a11 ok
        .code16
        .globl  _start
_start: cli
        cld
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $0x7c00, %sp
        movw    $0x1000, %ax
        movw    %ax, %es
        xorw    %di, %di
        movl    $0x2545f491, %eax       # any seed, and a well-known linear congruence
fill:   imull   $1664525, %eax, %eax
        addl    $1013904223, %eax
        stosl
        testw   %di, %di
        jnz     fill
        call    add_up
        movl    %edx, first
        call    page
        movw    $1024, %cx
        xorl    %eax, %eax
        rep stosl
        sti
tick:   call    page                    # of the tick before: still full of its number?
        movw    $1024, %cx
        movl    count, %eax
        repe scasl
        setne   bad
        incl    count
        call    page
        movw    $1024, %cx
        movl    count, %eax
        rep stosl
        call    add_up
        cmpl    first, %edx
        je      same
        movb    $1, bad
same:   movw    $said_tick, %si
        call    say
        movl    count, %eax
        call    say_hex
        movw    $said_sum, %si
        call    say
        movl    %edx, %eax
        call    say_hex
        movw    $said_ok, %si
        cmpb    $0, bad
        je      1f
        movw    $said_bad, %si
1:      call    say
        movw    $9, %cx                 # about half a second of the firmware's timer
1:      hlt
        loop    1b
        jmp     tick

add_up: movw    $0x1000, %ax            # -> edx, the sum of the 64 KB
        movw    %ax, %es
        xorl    %edx, %edx
        xorw    %di, %di
1:      addl    %es:(%di), %edx
        roll    $1, %edx
        addw    $4, %di
        jnz     1b
        ret

page:   movw    $0x2000, %ax            # -> es:di, the page of this count
        movw    %ax, %es
        movw    count, %di
        andw    $15, %di
        shlw    $12, %di
        ret

say_hex:
        pushw   %cx
        movw    $8, %cx
1:      roll    $4, %eax
        pushl   %eax
        andb    $15, %al
        cmpb    $10, %al
        jb      2f
        addb    $39, %al                # from behind 9 to a
2:      addb    $48, %al
        call    put
        popl    %eax
        loop    1b
        popw    %cx
        ret

say:    lodsb
        testb   %al, %al
        jz      1f
        call    put
        jmp     say
1:      ret

put:    pushw   %dx
        pushw   %ax
        movw    $0x3fd, %dx             # wait until the line takes a byte
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        popw    %ax
        movw    $0x3f8, %dx
        outb    %al, %dx
        popw    %dx
        ret

said_tick: .asciz "tick 0x"
said_sum:  .asciz " part 0 sum "
said_ok:   .asciz " ok\r\n"
said_bad:  .asciz " DAMAGED\r\n"
count:     .long 0
first:     .long 0
bad:       .byte 0
        .org    510
        .word   0xaa55
