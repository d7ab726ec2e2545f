"""Colours of pictures: public tables that the colour-blind see as well, and grey."""

from __future__ import annotations

import base64

import numpy as np
from numpy.typing import NDArray

# 256 colours of red, green and blue; of matplotlib, CC0
_TABLES = {
    "magma": (
        "000C500jX71_1#G0s#pE0t*5H4FdxY0|OES1QZ1X76t_v1_c@i1{??n9tj5^3J4+#2_y^&CJhQH4ht&~3oQ{0FA@"
        "zg6Ad&J4mK4II2I2(7!N%e5I-6aLL3l89T7(!5lJ8sOCb?XA`ws|5>q7-RVNZyDG^#K5nL=0Uo8<~FA-xg5oI$FX"
        "EYFLHV|t#5NtUQZaWWfJr8j|4{|^cbV3hxL=SdF5O+rqcu5d=N)UNW5qeG$druO3Q4)Mo6MR$?eO45GR~3F)6@FS"
        "4eq0uRT^D~}7=K_GfMOYdWEy~F8h~dTfM^_nY8-)U9f55ffo>jwa36tkAAxfqfpsB)b|HayB7u1#f_o!^d?SK>B!"
        "Yk?f`KK0gC>E5CV_@0frux8i70`KDS?bBfsQJHkSc+ZD}j?MfRrqNmMnmnEr6LVfSWFVoGyQ!FMpsff1xmbqcDD@"
        "F@B~oeW)^hsxy77GkmQye6BQmur+(KHG8u*dbKusw>NpXH+i}^c)U4yy*YQkI(NW2cEUS##5{GyJaorBbI3k(%06"
        "<;KXJ`KanC?-&_Qp~LT}SUZq-C>)<taCMQqtdYuiU^+(>EONoe0nXy8m|;!S4bPG#gzWaUs~=Tc+nQ)1~<V(M05>"
        "sMgxSYYj1U+!C8?_FN-UtaNGUGidG@?>1|WnA=UT=Z#N^=n-AY+UwkT=#HX_i|kLbX@p$T={ri`FUOWdtLf{UiyD"
        "t`hj2jgJ1iFVEcz*{E1=wiemhXWBiU}{E%h+l4kvsXZ@CF{g`R}nri)<YyO>V{-16Bp>F=8Z~mom{-<*OsdN6Sbp"
        "EV%{;qfauz3Emdj7O~{<eJnw|@S)fBw6H{=I_!zl8q5h5o{a{=|s>#)|&PjQ+}v{>+d5&5-`jlK#<@{?nEI)tCO)"
        "nf}<C{o0)U+@Ag3p#9*X{o<qj<E8!Or~T)t{pqUx>#Y3juKez>{P42;^0fT)w*2<E{P(&1`Mdo4z5M;Z"
    ),
    "viridis": (
        "L;+Mp0#-!?S49O`Mh99(2wX-AT}BIDM-5;{4q-<SV@DBWM-yd86lX{lXh;`nNEm8J8f-`#ZAct$NF8rTA8<$@aY!"
        "L^NF#JeBy~t7c1R|7NGNznDS1aKdPgjJM=g6tE__EXeMT^TMlyazGk-=jfJHTdMK^&(ID$kugG4%mL_35-J%mF(g"
        "+f1tLO_N>L54v>he1S#Kt+f^Mu<O0h(Ab)K1qo_N{K#9iakw=Jx+=|Pl`NHi#t(^J5q}}Q;RxOj5$?|IaZ7~Sd2J"
        "Xj5k`0H(QN1T#YtejWu44HD8T1V2w0kjWc46Gh>Z1WR5arjxlDAF=vi3XpS&xjxcJDFKdo3Y>qB%jxKJFE^m%4aE"
        ">i;jx2GGEOL%4bB-%?jw^MJDt3-4caAD}jwyMLDSD16dyXi4jwpSOCw`76e~u@BjwXSQCW4M8f{rDFjwOVSC54V8"
        "hK?kMjw6VUBZ-b9ij5+RjUtSVB8`n9j*TIYjUkYYA(4zAl8hjdj3ASYAC!zAm5U#iiyxPZADD|DnTj8piXNMa9-N"
        "6Dorxcwi65VcAE1aIp@<)$haaMcAftvLq=q4-g(0SeBBzBSsDvY_gCwehC98rZtb!)3fhVnjD6W7huYW4Ae=M<nE"
        "wX(svwSbKd@;3qGPZg&ws|$Tc{jLtIJtK^x^_Febv?XvKfH55y>ddnaYVmxM!;`K!EQ>yZA`*!PQz<Z#A;H-X;j5"
        "%R>o&o$7Nc`WL(H&Uddu$%3x#5UuDZ)XUtq_&0B2ET5ir*aL-qB&{lQORCm!+deKpQ(olcXPJz=+gw#uh)k%rfNQ"
        ">4+j@Ctx*F%%nL6z7*nAkp>**u-uJD}P*qS`m5+cv1%G^*S(t=urM-7m7;Ew$b&xZWwc-YC7_Ccxh%!rvps;33H1"
        "Aj;t%&EXx;;T+Q98`a_(*y0)5;~CxK7~kU<;^Y|R<QeDW8S3R4?ByHp<s9+l9rWfN_U0h?<{|s%BmL(k"
    ),
    "cividis": (
        "03uERBToP%Q2-@V03}oaCRP9^SO6$l04Q4kDO~_6UjQm$04rhuEMx#IW&kZ{04{0(E^GiVZ2&ND05EU>F>nAeaRD"
        "-M1v7C7GjI$va1S+b5;brXHgFa<a2Pjl8aQtpId2|1Zy-8vAv<m(JZ>aBZYDi$Cq8Z|KW-{NZ7V=+EkSKAL2WNWZ"
        "81Y_GDB@ML~S%hY&At}Hb!hXM{GGrY&uA6J4tLjN^Ct!Y(7hDKTK>uOl(0-Y(h?KLr!c&Pi#d{Y(`ORM^S7@Qfx_"
        "6Y)VsXOH^!3RcuXFY))2ePgiVES8P#OZBkinQ(A3QT5VNZZB<-tR$OgYU2RxiZCPG!T3>EkU~XJtZe3w+USe)uV{"
        "cz$Z(w9^VP$V(Wp86<aAaq2WoU3^XmDm}aA#_9Xlik3YjJ99acgaIY;AIEZgOpJa&B*PZ*X&PadUBUbaHZZa&vTZ"
        "baixeb#--hc6N4mcXoGocX)Vrd3kqwdU$(!czk<!eSCO+e0Y9+cz=F)fPZ*_e|Um`d4qv@go1g6f_a96d545}h=q"
        "8Gg?NgFc#DU4jEH!Rh<J{Pc#n#Bkc)Vci+GZZc#@5Hla6?lj(3%hcb1TMmyvgvl6RSscbb!So0N8(m3Ez#cAl1Yp"
        "O<x@n029<b)uPdqndQ2n{=g|bf%nir=4@Co^z?6bE=?otDthMp>nOFa;~FsucUFXrE#&PaI>axw5M;isBgBZZ?~y"
        "#xT<cst8KchZM&^)ysm7$u57-qYrn8-z_Dt<vTDM!X~VN=#I$I|wP?n+XUDf^$hc<7xn;|_Wz4!{&AVgHykpP3V$"
        "i-~(Z6BRz+ltBU(~^0)xuuZ!(G?JT-n83+QwVk$6DOTS>4E3-pN?s%2(jaR^iN5;>}d#&Qs;jQs&T6=h0B;(ogBr"
        "PU_Q4>(oo_)k^NxN$=N4@YqK2*+uf&MDyE1_1r=B-9Pu<KKS1}`QSSH;W+%_HvQu?{^T_N<u(51HvZ^1"
    ),
}  # fmt: skip
PALETTES = (*_TABLES, "grey")


def colours(name: str, shades: int) -> NDArray[np.uint8]:
    """Return colours from the darkest to the brightest, evenly spaced in a table.

    Parameters
    ----------
    name
        One of `PALETTES`.
    shades
        How many, 2 to 256.

    Returns
    -------
    colours
        Red, green, blue; shape (shades, 3).

    Examples
    --------
    >>> colours("grey", 3).tolist()
    [[0, 0, 0], [128, 128, 128], [255, 255, 255]]
    """
    at = np.rint(np.linspace(0, 255, shades)).astype(np.intp)
    if name == "grey":
        return np.repeat(at.astype(np.uint8)[:, None], 3, axis=1)
    return np.frombuffer(base64.b85decode(_TABLES[name]), np.uint8).reshape(256, 3)[at]
